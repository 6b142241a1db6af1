"""From histories to a few hundred candidates a user (Covington et al. 2016, section 3)."""
