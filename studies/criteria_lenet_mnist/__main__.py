from studies.criteria_lenet_mnist.study import main

main()
